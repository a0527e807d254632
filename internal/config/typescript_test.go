package config

import "testing"

func TestIsVisible(t *testing.T) {
	for name, want := range map[string]bool{
		"NODE_ENV": true, "VERCEL_ENV": true, "UPGRADE_URL": true, "PUBLIC_URL": true, "TIERGATE_TIERS": true, "NEXT_PUBLIC_NAME": true,
		"DATABASE_URL": false, "HOME": false, "RESEND_API_KEY": false, "TIERGATE_ADMIN_TOKEN": false, "NEXT_PUBLIC_SECRET": false, "node_env": false, "": false,
	} {
		if got := isVisible(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
