export default { type: 'freemium', opinion: 'it doesn't matter', steps: [] };
