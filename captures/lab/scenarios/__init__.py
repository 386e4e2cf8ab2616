"""Who talks to whom: a module for each kind of traffic; importing it enters its scenarios into the list."""
