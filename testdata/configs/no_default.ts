import { defineLoop } from '@skene/sdk';

export const loop = defineLoop({ type: 'freemium', steps: [] });
