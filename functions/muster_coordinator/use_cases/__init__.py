"""What the coordinator does, one module for each thing: reads through the ports, asks the domain, writes guarded."""
