// Package web shows how the sidecar is doing: health, readiness and Prometheus metrics.
package web

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics counts what the flow does. Its methods may be called from any goroutine.
type Metrics struct {
	Registry *prometheus.Registry

	changes, events, late, unknown, over, commits prometheus.Counter
	lag                                           prometheus.Histogram
	through, retained                             prometheus.Gauge
	emails                                        *prometheus.GaugeVec
}

// NewMetrics returns metrics in a registry of their own.
func NewMetrics() *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		changes:  counter("tiergate_changes_total", "Changes read from the stream and applied."),
		events:   counter("tiergate_events_total", "Access events recorded."),
		late:     counter("tiergate_usage_late_total", "Usage rows older than their subject's window, which do not count."),
		unknown:  counter("tiergate_usage_unknown_total", "Usage rows without a subject or not readable, which do not count."),
		over:     counter("tiergate_over_run_total", "Uses beyond a limit, as recorded with each block: what was served before anybody could see the flag."),
		commits:  counter("tiergate_commits_total", "Transactions of the sidecar."),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tiergate_lag_seconds",
			Help:    "From the commit of a change to the commit of the flags it changed.",
			Buckets: []float64{.001, .002, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30, 300}}),
		through:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "tiergate_source_timestamp_seconds", Help: "Commit time of the newest change in the flags."}),
		retained: prometheus.NewGauge(prometheus.GaugeOpts{Name: "tiergate_retained_wal_bytes", Help: "WAL that the server keeps for the sidecar."}),
		emails:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tiergate_emails", Help: "Emails that wait or are dead, by status."}, []string{"status"}),
	}
	m.Registry.MustRegister(m.changes, m.events, m.late, m.unknown, m.over, m.commits, m.lag, m.through, m.retained, m.emails,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Applied records one commit. through is the commit time of its newest change; zero: it had none.
// over is how many uses went beyond a limit with its blocks.
func (m *Metrics) Applied(changes, events, late, unknown int, over int64, through time.Time) {
	m.changes.Add(float64(changes))
	m.events.Add(float64(events))
	m.late.Add(float64(late))
	m.unknown.Add(float64(unknown))
	m.over.Add(float64(over))
	m.commits.Inc()
	if !through.IsZero() {
		m.lag.Observe(max(0, time.Since(through).Seconds()))
		m.through.Set(float64(through.UnixMicro()) / 1e6)
	}
}

// Observed records what a look at the server found: WAL kept for us in bytes, and emails by status.
func (m *Metrics) Observed(retained int64, emails map[string]int64) {
	m.retained.Set(float64(retained))
	m.emails.Reset()
	for status, n := range emails {
		m.emails.WithLabelValues(status).Set(float64(n))
	}
}
