import { defineLoop } from '@skene/sdk';

const action = { type: 'block' };
const trigger = { type: 'api', endpoint: '/api/features/*' };
const condition = { type: 'usage', limit: { free: 1 } };
const usage = (rest: object) => ({ ...condition, ...rest });

export default defineLoop({
  type: 'retention',
  steps: [
    { trigger: { type: 'schedule', cron: '0 9 * * *' }, condition, action },
    { trigger: { type: 'database', table: 'users', event: 'insert' }, condition, action },
    { feature: 'a', trigger, condition: { type: 'query', query: 'SELECT 1', timeout: '10m' }, action },
    { feature: 'e', trigger, condition, action: { type: 'notify' } },
    { feature: 'f', trigger, condition, action: { type: 'email', provider: 'resend', template: 'x', personalization: {} } },
    { feature: 'g', trigger, condition, action: { ...action, upgradePrompt: [{ type: 'email' }, { type: 'email', after: '3d' }] } },
    { feature: 'h', trigger, condition, action: { ...action, upgradePrompt: { type: 'email', after: '3d', personalization: {} } } },
  ],
  recovery: { retries: 3, backoff: 'exponential' },
});
