import { defineLoop } from '@skene/sdk';

const condition = { type: 'usage', limit: { free: 10 }, window: 'rolling' };

export default defineLoop({
  type: 'freemium',
  steps: [
    { trigger: { type: 'api', endpoint: '/api/a' }, condition: { ...condition, period: 'month' }, action: { type: 'block' } },
    { trigger: { type: 'api', endpoint: '/api/b' }, condition, action: { type: 'block' } },
  ],
});
