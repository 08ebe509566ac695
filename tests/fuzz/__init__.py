"""Programs that look for bytes that break what reads them; ``make fuzz`` runs them."""
