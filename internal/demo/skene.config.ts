import { defineLoop } from '@skene/sdk';

export default defineLoop({
  type: 'freemium',
  opinion: 'Free users should experience core value before hitting a wall.',
  steps: [
    {
      trigger: {
        type: 'api',
        endpoint: '/api/features/*',
        method: 'POST',
      },
      condition: {
        type: 'usage',
        limit: { free: 100, paid: Infinity },
        period: '30d',
      },
      action: {
        type: 'block',
        message: "You've reached your free tier limit. Upgrade to continue.",
        upgradePrompt: {
          type: 'email',
          provider: 'resend',
          template: 'upgrade_prompt',
        },
      },
    },
  ],
  recovery: {
    retries: 0,
  },
});
