-- The inbox: what gives no alert is found, and so is what waits; finished deliveries are removed after a time.

-- Departures dated in a suppression window: few of very many findings.
create index findings_suppressed on findings (parcel_key, rule, recorded_at) where evidence ? 'suppressed';
