-- tiergate_has_feature(subject, feature) → 1 or 0: may the subject use the feature now? SELECT tiergate_has_feature('ann', 'exports').
-- Right even past resets_at while the sidecar is down; the renewal of a billing period is then taken for granted for the
-- time of grace. A subject without a row counts as the default tier with nothing used; an unknown feature is 0.
-- Never an error. Cost: one index lookup. Where the server allows no stored functions: CALL tiergate_has(subject, feature, @allowed).
CREATE FUNCTION tiergate_has_feature(p_subject TEXT @bin@, p_feature TEXT @bin@) RETURNS BOOLEAN
READS SQL DATA SQL SECURITY DEFINER
BEGIN
    DECLARE v_allowed BOOLEAN;
    CALL tiergate_has(p_subject, p_feature, v_allowed);
    RETURN v_allowed;
END
