import { defineLoop } from '@skene/sdk';
const rest = { condition: { type: 'usage', limit: { free: 1 } }, action: { type: 'block' } } as const;
export default defineLoop({
  type: 'freemium',
  steps: [
    { trigger: { type: 'api', endpoint: '/api/exports/*' }, ...rest },
    { trigger: { type: 'feature', feature: 'exports' }, ...rest },
  ],
});
