"""Subscriptions: which events of alerts people receive, when, in which form and over which channel."""
