"""Whether an application could tell that there is a proxy: the same things near and far."""
