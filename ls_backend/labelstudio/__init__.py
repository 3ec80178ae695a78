"""Everything that is said to or heard from Label Studio; no other package calls it."""
