export default [
  { ['ty' + 'pe']: 1, 'steps': [, 1] },
  Object.assign({}, { type: 'freemium', steps: 'none' }),
  new Proxy({}, {}),
  class {},
];
