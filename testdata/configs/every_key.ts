import { defineLoop, type Loop } from '@skene/sdk';
import { limits } from './imported/limits';
import texts from './imported/texts.json';

enum Period {
  Export = '12h',
}

const prompt = { type: 'email', provider: 'smtp', template: 'exports', retries: 3 } as const;
const method = process.env.NODE_ENV === 'production' ? 'GET' : 'POST';

const exportsLoop = {
  type: 'freemium',
  steps: [
    {
      trigger: { type: 'feature', feature: 'exports' },
      condition: { type: 'usage', limit: limits(2), period: Period.Export, warnAt: [0.9, 0.5] },
      action: { type: 'block', message: `${texts.wall} ${process.env.TIERGATE_TEXT}`, upgradePrompt: { ...prompt } },
      enforcement: 'shadow',
    },
  ],
  recovery: { retries: 3 },
} satisfies Loop;

export default [
  exportsLoop,
  defineLoop({
    type: 'seats',
    opinion: texts.opinion,
    steps: [
      {
        trigger: { type: 'api', endpoint: '/api/v1/**', method },
        condition: {
          type: 'usage', limit: { free: 0, paid: 10, 'team-plus': 50, trial: 1_000 },
          window: 'calendar', period: 'month', timezone: 'Europe/Berlin',
        },
        action: { type: 'block' },
        feature: 'v1.calls',
      },
      {
        trigger: { type: 'api', endpoint: '/api/uploads' },
        condition: { type: 'usage', limit: { free: 3 } },
        action: { type: 'block', upgradePrompt: { type: 'email' } },
      },
    ],
  }),
];
