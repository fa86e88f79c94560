"""Scenes found, cut and reconciled.

finders ──► ScenePublisher ── ledger row, record ──► scenes topic ──► Worker ── opens, cuts ──► observation topics
                                   ▲                                    │
                                   └── found, cutting, cut, ... ◄───────┘
"""
