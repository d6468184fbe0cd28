"""How the process of a launch script starts, reacts to signals, starts other processes, and ends."""
