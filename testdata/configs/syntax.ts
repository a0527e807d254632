export default {
  type: 'freemium'
  steps: [],
};
