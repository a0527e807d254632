package main

import (
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tiergate/tiergate/internal/config"
	"github.com/tiergate/tiergate/internal/loops"
)

// settings looks at environment and sidecar.yaml. What could be read is returned.
func (k *checkup) settings(dir string) config.Settings {
	k.group = "Settings"
	s, err := readSettings(dir)
	k.faults("settings", err)
	if s.Database.URL != "" {
		k.ok("database", "%s", s.Database)
	}
	if len(s.Database.Ignored) > 0 {
		k.ok("database", "ignored, because only the application's client knows them: %s", strings.Join(s.Database.Ignored, ", "))
	}
	if s.Database.Pooler {
		k.warn("database", "set DIRECT_URL to the same with "+s.Database.Direct, "this looks like a pooler's address, and a pooler carries no change stream")
	}
	for _, name := range s.Unsupported {
		k.warn(name, "", "set, but not supported in this version: ignored")
	}
	if host, _, err := net.SplitHostPort(s.AdminListen); err == nil && s.AdminToken == "" && !loopback(host) {
		k.warn("admin.listen", "TIERGATE_ADMIN_TOKEN=a long random text, or TIERGATE_ADMIN_LISTEN=127.0.0.1:8377",
			"%s is open to others, and / shows numbers to everybody", s.AdminListen)
	}
	return s
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// loops looks at the loop files, and writes the types for editors beside TypeScript ones. It returns
// nil where there is a problem.
func (k *checkup) loops(dir string, s config.Settings) *loops.Plan {
	k.group = "Loops"
	paths, err := config.FindLoops(dir, s.Loops)
	if err != nil {
		k.faults("loops", err)
		return nil
	}
	k.types(paths)
	plan, err := readPlan(dir, s)
	if err != nil {
		k.faults("loops", err)
		return nil
	}
	for i := range plan.Loops {
		k.ok(plan.Loops[i].Feature, "%s", summary(&plan.Loops[i]))
	}
	return plan
}

func (k *checkup) types(paths []string) {
	var folders []string
	for _, path := range paths {
		if folder := filepath.Dir(path); filepath.Ext(path) == ".ts" && !slices.Contains(folders, folder) {
			folders = append(folders, folder)
		}
	}
	for _, folder := range folders {
		changed, err := config.WriteTypes(folder)
		if err != nil {
			k.demote(config.TypesFile, err) // only editors need it, and `run` reads the folder only
		} else if changed {
			k.ok(config.TypesFile, "written, so that editors and builds know '@skene/sdk'")
		}
	}
}

// summary is a loop in one line.
func summary(l *loops.Loop) string {
	trigger := "rows of feature " + l.Feature
	if l.Trigger.Kind == loops.OnAPI {
		trigger = strings.TrimSpace(l.Trigger.Method + " " + l.Trigger.Endpoint)
	}
	tiers := slices.SortedFunc(maps.Keys(l.Limits), func(a, b string) int {
		return strings.Compare(sortKey(l, a), sortKey(l, b))
	})
	for i, tier := range tiers {
		tiers[i] = fmt.Sprintf("%s %s", tier, l.Limits[tier])
	}
	window := "for a lifetime"
	if l.Window.Kind != loops.Lifetime {
		window = fmt.Sprintf("per %s (%s)", l.Window.Period.Text, l.Window.Kind)
	}
	parts := []string{trigger, strings.Join(tiers, ", ") + " " + window, string(l.Enforcement)}
	if l.Prompt != nil {
		parts = append(parts, "prompt "+l.Prompt.Template)
	}
	if l.Opinion != "" {
		parts = append(parts, "“"+l.Opinion+"”")
	}
	return strings.Join(parts, " · ")
}

// sortKey puts the default tier first, then the smaller limit.
func sortKey(l *loops.Loop, tier string) string {
	return fmt.Sprintf("%t %019d %s", tier != loops.DefaultTier, int64(l.Limits[tier]), tier)
}

// emails looks at what prompts need: templates, sender, link and provider.
func (k *checkup) emails(s config.Settings, plan *loops.Plan) {
	k.group = "Emails"
	mails, err := mailer(s)
	if err != nil {
		k.faults("emails", err)
		return
	}
	if plan == nil {
		return
	}
	prompts := 0
	for _, l := range plan.Loops {
		if l.Prompt != nil {
			prompts++
		}
	}
	switch {
	case prompts == 0:
		k.ok("prompts", "no loop sends an email")
		return
	case s.EmailMode.Off:
		k.ok("email.mode", "off: nobody is mailed")
	default:
		k.sender(s)
	}
	if err := checkTemplates(mails, plan); err != nil {
		k.faults("templates", err)
		return
	}
	k.ok("templates", "%s, each with every variable it uses", plural(len(templates(plan)), "template"))
}

// sender looks at the settings without which no email leaves.
func (k *checkup) sender(s config.Settings) {
	missing := func(name, fix string) {
		k.fail(name, fix, "not set, and a prompt needs it: flags work, its emails wait")
	}
	if s.UpgradeURL == "" {
		missing("UPGRADE_URL", "UPGRADE_URL=https://YOUR-APP/pricing")
	}
	if s.EmailFrom == "" {
		missing("EMAIL_FROM", `EMAIL_FROM="Acme <hello@YOUR-DOMAIN>"`)
	}
	provider := "Resend"
	switch {
	case s.ResendKey != "":
	case s.SMTPURL != "":
		provider = "SMTP"
	default:
		missing("RESEND_API_KEY", "RESEND_API_KEY=re_…, or for development SMTP_URL=smtp://localhost:1025")
		return
	}
	k.ok("provider", "%s, %v a second at most, email.mode %s", provider, s.EmailRate, s.EmailMode)
}

// templates are the names that the loops' prompts and warnings use.
func templates(plan *loops.Plan) []string {
	var names []string
	for _, l := range plan.Loops {
		if l.Prompt == nil {
			continue
		}
		names = append(names, l.Prompt.Template)
		if len(l.WarnAt) > 0 {
			names = append(names, loops.WarningTemplate)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
