import { defineLoop } from '@skene/sdk';

let limit = 0;
while (true) limit++;

export default defineLoop({ type: 'freemium', steps: [] });
