const step: any = {};
step.trigger = step;
const loop: any = { type: 'freemium', steps: [step] };
loop.recovery = loop;
export default loop;
