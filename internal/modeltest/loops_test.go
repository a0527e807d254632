package modeltest

// config is the loops of every history; rules() says the same to the reference.
const config = `import { defineLoop } from '@skene/sdk';

const upgradePrompt = { type: 'email', provider: 'resend', template: 'upgrade_prompt' };

export default defineLoop({
  type: 'freemium',
  steps: [
    {
      trigger: { type: 'api', endpoint: '/api/features/*', method: 'POST' },
      condition: { type: 'usage', limit: { free: 5, pro: 12, paid: Infinity }, period: '30d', warnAt: [0.8] },
      action: { type: 'block', message: 'No features left', upgradePrompt },
    },
    {
      trigger: { type: 'api', endpoint: '/api/exports', method: 'POST' },
      condition: { type: 'usage', limit: { free: 3, pro: 6, paid: Infinity } },
      action: { type: 'block', message: 'No exports left', upgradePrompt },
    },
    {
      trigger: { type: 'api', endpoint: '/api/reports/*', method: 'POST' },
      condition: { type: 'usage', limit: { free: 4, paid: 9 }, period: 'month', window: 'calendar', timezone: 'UTC', warnAt: [0.5] },
      action: { type: 'block', message: 'No reports left', upgradePrompt },
    },
    {
      enforcement: 'shadow',
      trigger: { type: 'api', endpoint: '/api/beta/*', method: 'POST' },
      condition: { type: 'usage', limit: { free: 2, paid: Infinity }, period: '30d' },
      action: { type: 'block', message: 'never shown', upgradePrompt },
    },
    {
      feature: 'calls',
      trigger: { type: 'api', endpoint: '/api/**', method: 'POST' },
      condition: { type: 'usage', limit: { free: 700, paid: 3000 } },
      action: { type: 'block', message: 'No calls left' },
    },
    {
      trigger: { type: 'api', endpoint: '/api/sso', method: 'POST' },
      condition: { type: 'usage', limit: { free: 0, paid: Infinity } },
      action: { type: 'block', message: 'Not in your plan', upgradePrompt },
    },
  ],
});
`

func rules() []rule {
	limits := func(free, paid int64) map[string]int64 { return map[string]int64{"free": free, "paid": paid} }
	return []rule{
		{feature: "features", path: "/api/features/*", limits: map[string]int64{"free": 5, "pro": 12, "paid": unlimited}, period: "30d", warnAt: 0.8, mails: true},
		{feature: "exports", path: "/api/exports", limits: map[string]int64{"free": 3, "pro": 6, "paid": unlimited}, mails: true},
		{feature: "reports", path: "/api/reports/*", limits: limits(4, 9), period: "month", warnAt: 0.5, mails: true},
		{feature: "beta", path: "/api/beta/*", limits: limits(2, unlimited), period: "30d", shadow: true, mails: true},
		{feature: "calls", path: "/api/**", limits: limits(700, 3000)},
		{feature: "sso", path: "/api/sso", limits: limits(0, unlimited), mails: true},
	}
}

// tables is the application's schema.
const tables = `
CREATE TABLE users (id text PRIMARY KEY, email text, name text);
CREATE TABLE subscriptions (id bigserial PRIMARY KEY, user_id text, status text, plan text, period_end timestamptz);
CREATE TABLE usage (id bigserial PRIMARY KEY, user_id text, endpoint text, method text, quantity int NOT NULL DEFAULT 1,
	status int NOT NULL DEFAULT 200, created_at timestamptz NOT NULL);
CREATE INDEX ON usage (user_id, created_at);
`
