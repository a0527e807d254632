function limit(n: number): number {
  return limit(n + 1) + 1;
}

export default { type: 'freemium', steps: [limit(0)] };
