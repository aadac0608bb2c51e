"""`muster plan`: compiles, checks, shows, signs and verifies plans."""
