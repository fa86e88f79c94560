drop index findings_suppressed;
