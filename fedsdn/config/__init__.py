"""The federation file: its values, how it is read, and what is checked in it."""
