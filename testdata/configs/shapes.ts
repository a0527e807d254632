import { defineLoop } from '@skene/sdk';

export default [
  defineLoop({
    type: 'Free',
    opinion: 7,
    steps: [
      { trigger: { type: 'api', endpoint: 'api/x' }, condition: null, action: 'block' },
      { trigger: { type: 'api', endpoint: '/api/x?y=1', method: 'post' }, action: {} },
      { trigger: { type: 'api', endpoint: '/**' }, condition: { type: 'usage' }, action: { type: 'block', message: ' ' } },
      { trigger: { type: 'api', endpoint: '/api/createImage' }, condition: [], action: { type: 'block', upgradePrompt: { type: 'email', template: '../x', retries: 1.5 } } },
      { trigger: { type: 'feature' }, feature: 5 },
      { trigger: { type: 'feature', feature: 'q' }, feature: 'r', condition: { type: 'usage', limit: { free: 1 } }, action: { type: 'block' } },
      7,
    ],
  }),
  defineLoop({ type: 'freemium', steps: [] }),
  defineLoop({}),
  'freemium',
];
