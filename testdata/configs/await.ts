export default await fetch('https://example.com/limits');
