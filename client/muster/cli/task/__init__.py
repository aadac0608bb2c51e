"""`muster task`: creates, follows and changes tasks."""
