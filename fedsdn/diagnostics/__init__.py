"""What an operator looks at: checks, tables, pictures."""
