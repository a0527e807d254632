export default (async () => ({ type: 'freemium', steps: [] }))();
