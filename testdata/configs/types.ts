import { defineLoop } from '@skene/sdk';

const trigger = { type: 'api', endpoint: '/api/x' } as const;
const action = { type: 'block' } as const;
const late = { period: '3 days', ...JSON.parse('{"warnAt": 0.8}') };

export default defineLoop({
  type: 'freemium',
  steps: [
    { feature: 'f0', trigger, condition: { type: 'usage', limit: { free: '100' } }, action },
    { feature: 'f1', trigger, condition: { type: 'usage', limit: { free: NaN, paid: 1.5, team: -1, pro: true, big: 2 ** 60, Pro: 1, none: -Infinity } }, action },
    { feature: 'f2', trigger, condition: { type: 'usage', limit: 100 }, action },
    { feature: 'f3', trigger, condition: { type: 'usage', limit: { paid: 1 } }, action },
    { feature: 'f4', trigger, condition: { type: 'usage', limit: { free: 1 }, period: 30 }, action },
    { feature: 'f5', trigger, condition: { type: 'usage', limit: { free: 1 }, ...late }, action },
    { feature: 'f6', trigger, condition: { type: 'usage', limit: { free: 'Infinity' }, warnAt: [80, 0, 1, 0.5, 0.5, '0.8'] }, action },
    { feature: 'f7', trigger, condition: { type: 'usage', limit: { free: 1 }, warnAt: 0.8 }, action },
    { feature: 'f8', trigger, condition: { type: 'usage', limit: { free: 1 }, period: '30d', window: 'calendar' }, action },
    { feature: 'f9', trigger, condition: { type: 'usage', limit: { free: 1 }, window: 'calendar' }, action },
    { feature: 'f10', trigger, condition: { type: 'usage', limit: { free: 1 }, window: 'calendar', period: 'month', timezone: 'Berlin' }, action },
    { feature: 'f11', trigger, condition: { type: 'usage', limit: { free: 1 }, period: '1d', timezone: 'UTC' }, action },
    { feature: 'f12', trigger, condition: { type: 'usage', limit: { free: 1 }, period: process.env.DATABASE_URL }, action },
    { feature: 'f13', trigger, condition: { type: 'usage', limit: { free: () => 1 }, period: new Date(0) }, action },
    { feature: 'f14', trigger, condition: { type: 'usage', limit: { free: 1n, paid: new Map() }, period: null }, action },
    { feature: 'f15', trigger, condition: { type: 'usage', limit: { free: 1 }, period: '1m' }, action },
    { feature: 'f16', trigger, condition: { type: 'usage', limit: { free: 1 }, period: '99999999999999999999d' }, action },
    { feature: 'f17', trigger, condition: { type: 'usage', limit: { free: Symbol('x'), paid: (async () => 1)() } }, action },
  ],
  recovery: { retries: -1 },
});
