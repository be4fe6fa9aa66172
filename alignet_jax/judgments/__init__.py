"""What people answered: readers, noise ceilings, VICE, simulated people."""
