package mail

import (
	"fmt"
	"net/mail"
	"slices"
	"strings"
)

// mode is email.mode: who may be written to. The zero mode is "on".
type mode struct {
	off      bool
	redirect string   // everything goes here
	allow    []string // lower case: addresses, and domains with their @
}

// parseMode reads on, off, redirect:ADDRESS and allow:ADDRESS,@DOMAIN.
func parseMode(s string) (mode, error) {
	name, list, _ := strings.Cut(strings.TrimSpace(s), ":")
	wrong := func(problem string) (mode, error) {
		return mode{}, fault("read email.mode", fmt.Errorf("%q: %s", s, problem), "write on, off, redirect:me@acme.com or allow:me@acme.com,@acme.com")
	}
	switch {
	case s == "" || s == "on":
		return mode{}, nil
	case s == "off":
		return mode{off: true}, nil
	case name == "redirect":
		address, err := mail.ParseAddress(list)
		if err != nil {
			return wrong("redirect needs an email address")
		}
		return mode{redirect: address.Address}, nil
	case name == "allow":
		var m mode
		for entry := range strings.SplitSeq(list, ",") {
			entry = strings.ToLower(strings.TrimSpace(entry))
			// "@acme.com" is a domain if somebody there has an address.
			if a, err := mail.ParseAddress("x" + entry); err != nil || a.Address != "x"+entry {
				return wrong(fmt.Sprintf("%q is neither an address nor a domain", entry))
			}
			m.allow = append(m.allow, entry)
		}
		return m, nil
	default:
		return wrong("there is no such mode")
	}
}

// route returns where a message to an address goes, or why it goes nowhere.
func (m mode) route(to string) (address, reason string) {
	switch {
	case m.off:
		return "", "email.mode is off"
	case m.redirect != "":
		return m.redirect, ""
	case m.allow == nil:
		return to, ""
	}
	lower := strings.ToLower(to)
	if slices.Contains(m.allow, lower) || slices.Contains(m.allow, lower[max(0, strings.LastIndexByte(lower, '@')):]) {
		return to, ""
	}
	return "", "email.mode allows only " + strings.Join(m.allow, ", ")
}
