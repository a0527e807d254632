import { defineLoop } from '@skene/sdk';

const step = (feature: string, limit: Record<string, number>) => ({
  trigger: { type: 'feature', feature } as const,
  condition: { type: 'usage', limit } as const,
  action: { type: 'block' } as const,
});
const plans = { exports: { free: 2 }, imports: { free: 2.5 } };

export default Object.entries(plans).map(([name, limit]) => defineLoop({ type: 'freemium', steps: [step(name, limit as any)] }));
