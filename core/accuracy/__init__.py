"""CER, its uncertainty, the gate, and the guard against leaks."""
