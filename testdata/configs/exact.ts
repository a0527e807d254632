import { defineLoop } from '@skene/sdk';

const trigger = { type: 'api', endpoint: '/api/models/*' };
const action = { type: 'block' };

export default defineLoop({
  type: 'freemium',
  steps: [
    { trigger, enforcement: 'strict', condition: { type: 'usage', limit: { free: 10 }, window: 'billing' }, action },
    { trigger, feature: 'calls', condition: { type: 'usage', limit: { free: 10 }, window: 'billing', period: 'year' }, action },
    { trigger, feature: 'burst', condition: { type: 'usage', limit: { free: 10 }, window: 'rolling', period: '7d' }, action },
  ],
});
