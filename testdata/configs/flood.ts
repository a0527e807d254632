const steps = [];
for (;;) steps.push({ trigger: {} });
export default { type: 'freemium', steps };
