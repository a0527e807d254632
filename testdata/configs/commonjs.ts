module.exports = { type: 'freemium', steps: [] };
