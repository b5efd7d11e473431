//! What an identity has switched on: its subscriptions, with the granted quality of service
//! and the literal filter, because answers must be addressed as the client asked.

/// One thing that a hub sends on its own or in answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Messages from the cloud to the device.
    CloudToDevice,
    /// Messages for a module's inputs.
    Inputs,
    /// Direct methods; having this makes the identity "method capable".
    Methods,
    /// Answers to twin reads and patches.
    TwinAnswers,
    /// Changes of desired properties.
    DesiredChanges,
}

/// One subscription as granted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subscription {
    /// What it switches on.
    pub feature: Feature,
    /// Granted quality of service, 0 or 1.
    pub qos: u8,
    /// The filter as the client wrote it.
    pub filter: Box<str>,
}

/// Most subscriptions that one identity may hold; Azure documents 5, SDKs stay below 10.
pub const SUBSCRIPTIONS_MAX: usize = 16;

/// Subscriptions of one identity, at most one per filter, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureSet(Vec<Subscription>);

impl FeatureSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// All subscriptions, sorted.
    pub fn iter(&self) -> std::slice::Iter<'_, Subscription> {
        self.0.iter()
    }

    /// Whether nothing is switched on.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many subscriptions there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether some subscription switches `feature` on.
    pub fn has(&self, feature: Feature) -> bool {
        self.0.iter().any(|held| held.feature == feature)
    }

    /// The subscription to address answers of `feature` by: the first in order.
    pub fn find(&self, feature: Feature) -> Option<&Subscription> {
        self.0.iter().find(|held| held.feature == feature)
    }

    /// Adds `subscription`, replacing one with the same filter.
    pub fn insert(&mut self, subscription: Subscription) {
        self.0.retain(|held| held.filter != subscription.filter);
        self.0.push(subscription);
        self.0.sort();
    }

    /// Removes the subscription with exactly this filter, if it is held.
    pub fn remove(&mut self, filter: &str) {
        self.0.retain(|held| &*held.filter != filter);
    }
}

impl FromIterator<Subscription> for FeatureSet {
    fn from_iter<I: IntoIterator<Item = Subscription>>(all: I) -> Self {
        let mut set = Self::new();
        all.into_iter().for_each(|one| set.insert(one));
        set
    }
}

impl<'a> IntoIterator for &'a FeatureSet {
    type Item = &'a Subscription;
    type IntoIter = std::slice::Iter<'a, Subscription>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subscription_per_filter_and_the_last_one_wins() {
        let with = |filter: &str, qos| Subscription {
            feature: Feature::Methods,
            qos,
            filter: filter.into(),
        };
        let mut set: FeatureSet = [with("b", 0), with("a", 1), with("b", 1)].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [&with("a", 1), &with("b", 1)]);
        assert!(set.has(Feature::Methods) && !set.has(Feature::Inputs));
        set.remove("a");
        set.remove("never there");
        assert_eq!(set.len(), 1);
    }
}
