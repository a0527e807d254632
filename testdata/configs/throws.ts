import { defineLoop } from '@skene/sdk';

const plans: Record<string, { free: number }> = {};
const limit = (name: string) => ({ free: plans[name].free });

export default defineLoop({
  type: 'freemium',
  steps: [{
    trigger: { type: 'feature', feature: 'a' },
    condition: { type: 'usage', limit: limit('exports') },
    action: { type: 'block' },
  }],
});
