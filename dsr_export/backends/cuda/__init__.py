"""One GPU through CUDA's driver: its memory, its stream, graphs of work, and clocks."""
