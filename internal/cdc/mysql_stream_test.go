package cdc

import (
	"testing"
)

// TestMySQLStream reads each kind of change, and reads it again from each place between.
func TestMySQLStream(t *testing.T) {
	bothWays(t, func(t *testing.T, a *bapp) {
		start := a.begin()
		a.exec("INSERT INTO `usage` (user_id, endpoint) VALUES ('ann', '/1'), (NULL, '/2')")
		a.exec("UPDATE `usage` SET endpoint = 'no use' WHERE user_id = 'ann'")
		a.exec("DELETE FROM `usage`")
		a.exec(`INSERT INTO stranger VALUES (1, 'x')`)
		a.exec(`INSERT INTO users VALUES (7, 'a@b.c', NULL)`)
		a.exec(`UPDATE users SET id = 8, name = 'Änn' WHERE id = 7`)
		a.exec(`DELETE FROM users WHERE id = 8`)
		a.exec(`INSERT INTO seats VALUES ('acme', 3, 'pro')`)
		a.exec(`UPDATE seats SET plan = 'free' WHERE org = 'acme'`)
		a.exec(`START TRANSACTION`)
		a.exec(`INSERT INTO users VALUES (9, 'd@e.f', 'Dee')`)
		a.exec("INSERT INTO `usage` (user_id, endpoint) VALUES ('9', '/3')")
		a.exec(`ROLLBACK`)
		a.exec("INSERT INTO `usage` (user_id, endpoint) VALUES ('end', '/4')")
		want := []string{"I ann /1", "I  /2", "I 7 subject=7 email=a@b.c name=null", "U 8 was 7 subject=8 email=a@b.c name=Änn", "D 8",
			"I acme+3 subject=acme plan=pro", "U acme+3 subject=acme plan=free", "I end /4"}
		for at, done := start, 0; done < len(want); {
			got, _ := a.reads(at, len(want)-done)
			expect(t, got, want[done:]...)
			stream := a.open(at)
			b, err := stream.Next(t.Context(), inAMinute())
			if err != nil {
				t.Fatal(err)
			}
			stream.Close()
			for i, c := range b.Changes {
				if text := changeText(c); text != want[done+i] {
					t.Fatalf("after %q: %s", want[:done+i], text)
				}
			}
			done += len(b.Changes)
			at = b.Position
		}
	})
}
