throw { toString() { throw null; } };
