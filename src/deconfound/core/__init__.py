"""What every room speaks: threat models, random streams, value types, protocols, input checks and guards."""
