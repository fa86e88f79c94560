"""Rounds: lights published at dates, provable later, and what changed from one to the next."""
