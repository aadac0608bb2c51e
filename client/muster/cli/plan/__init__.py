"""`muster plan`: compile, check, show, sign and verify plans."""
