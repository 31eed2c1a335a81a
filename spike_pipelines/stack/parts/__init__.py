"""One file for each real part of the stack: how it is started, asked and furnished."""
