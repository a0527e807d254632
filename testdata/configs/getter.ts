export default {
  get type(): string {
    throw { toString: () => 'nothing to see' };
  },
};
