import { defineLoop } from '@skene/sdk';

export default defineLoop({
  type: 'freemium',
  opinon: 'x',
  steps: [{
    triger:    { type: 'api', endpoint: '/api/features/*' },
    condition: { type: 'usage', limit: { fre: 100 }, perod: '30d', feature: 'x' },
	action:    { type: 'block', mesage: "Überschuss 👍", template: 'x', upgradePrompt: { type: 'emial' } },
    warnAt: [0.8],
    zzzzzzzz: 1,
  }, {
    trigger:   { type: 'api', endpoint: '/api/exports', feature: 'x', methd: 'POST' },
    condition: { type: 'usgae', limit: { free: 1 } },
    action:    { type: 'block', message: 'one', message: 'two' },
    enforcement: 'asinc',
  }],
});
