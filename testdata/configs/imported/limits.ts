export function limits(free: number): { free: number; paid: number } {
  return { free, paid: Infinity };
}
