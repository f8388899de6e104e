//! What others remove, rename or change of ours is put back.
//!
//! Keeps one rule: everything is compared with what should be there, whatever the event said; so what is whole costs a look and
//! no change, and a change of our own causes no second one. So IPv6 in our table follows the ways
//! that the host has, too. The live tables have an owner, and the kernel lets nobody else touch them: they go with it alone.

use ipnet::IpNet;

use super::guard::Guard;
use super::host::Link;
use super::install::{GUARD, State, check_names};
use super::plan::Plan;
use super::rule::Rule;
use super::setup::settings_of;
use super::undo::Setting;
use super::{Host, InstallError, Installed, Mark, foremost, nft, setup, steer};

/// How often what changes under our hands is looked at anew.
const VIEWS: u32 = 3;

impl Installed {
    /// Puts back what is missing: the device's state, MTU and addresses, its routes, our rules, kernel settings, the guard. Links that
    /// appeared since get their chain in it. True when the guard was not as it should be.
    ///
    /// # Errors
    ///
    /// The kernel or nft refuses a step; the next call tries again.
    pub fn repair(&mut self) -> Result<bool, InstallError> {
        let Some(state) = &mut self.state else { return Ok(false) };
        let mut host = Host::read(&mut state.socket)?;
        if state.is_renamed(&host, &self.plan) {
            setup::set_name(&mut state.socket, state.device, &self.plan.device)?;
            tracing::warn!(name = self.plan.device, "our device had been renamed, and has its name again");
            host = Host::read(&mut state.socket)?;
        }
        for _ in 0..VIEWS {
            let error = match self.put_right(&host) {
                Ok(was_amiss) => return Ok(was_amiss),
                Err(error) => error,
            };
            // A link may go, the device too, while its name is on its way into a script; and so may a table.
            let Some(state) = &mut self.state else { return Err(error) };
            let now = Host::read(&mut state.socket)?;
            if now == host && !matches!(&error, InstallError::Nft(error) if error.may_pass()) {
                return Err(error);
            }
            host = now;
        }
        self.put_right(&host)
    }

    /// Puts back the kernel settings, of whose changes the kernel tells nobody. A few short reads where all is well.
    ///
    /// # Errors
    ///
    /// The kernel refuses one.
    pub fn repair_settings(&self) -> Result<(), InstallError> {
        self.put_settings_right(false)
    }

    fn put_settings_right(&self, ipv6: bool) -> Result<(), InstallError> {
        let Some(state) = &self.state else { return Ok(()) };
        for (path, value) in settings_of(&self.plan.device, ipv6) {
            // A kernel without one works as far as it goes, and with the device they go.
            if let Some(setting) = Setting::plan(&format!("/proc/sys/net/{path}"), value) {
                let _ = setting.apply();
            }
        }
        for setting in state.undo.settings.iter().filter(|setting| !setting.holds()) {
            setting.apply()?;
        }
        Ok(())
    }

    fn put_right(&mut self, host: &Host) -> Result<bool, InstallError> {
        // It goes with the packet loop, whose end takes everything back.
        if !host.links.iter().any(|link| link.name == self.plan.device) {
            return Ok(false);
        }
        // On the way from one network to the next there may be none for a moment.
        self.mtu = host.mtu_of_uplinks(&self.plan.device).unwrap_or(self.mtu);
        let settings = self.put_settings_right(host.ipv6);
        let Self { plan, mark, mtu, bare, state, .. } = self;
        let Some(state) = state else { return Ok(false) };
        let noted = state.note_again().map_err(InstallError::from);
        let device = state.repair_device(&Guard { plan, host, mark: *mark, bare }, *mtu);
        let place = state.repair_place(plan, host, *mark);
        let links = state.follow_links(&Guard { plan, host, mark: *mark, bare });
        let rules = steer::add_rules(&mut state.socket, &state.undo.rules).map_err(InstallError::from);
        let live = state.repair_live(&Guard { plan, host, mark: *mark, bare });
        // Whatever else cannot be done, the guard can: it comes last and is looked at always.
        let guard = state.repair_guard(&Guard { plan, host, mark: *mark, bare });
        [settings, noted, device, place, links, rules, live].into_iter().collect::<Result<(), _>>().and(guard)
    }
}

impl State {
    /// Links that appeared get their rules, and those of links that went are removed.
    fn follow_links(&mut self, guard: &Guard<'_>) -> Result<(), InstallError> {
        let wanted = steer::linked(guard.plan, guard.host);
        let excluded = &guard.plan.exclude.interfaces;
        let is_gone = |rule: &Rule| !wanted.contains(rule) && steer::linked_to(rule).is_some_and(|name| !excluded.contains(name));
        let gone: Vec<Rule> = self.undo.rules.iter().filter(|rule| is_gone(rule)).cloned().collect();
        // What could not be removed stays noted, and is tried again.
        steer::remove_rules(&mut self.socket, &gone)?;
        self.undo.rules.retain(|rule| !gone.contains(rule));
        let new: Vec<Rule> = wanted.into_iter().filter(|rule| !self.undo.rules.contains(rule)).collect();
        if new.is_empty() && gone.is_empty() {
            return Ok(());
        }
        self.undo.rules.extend(new);
        Ok(self.note()?)
    }

    /// Whether our device has another name than the guard and the rules know.
    fn is_renamed(&self, host: &Host, plan: &Plan) -> bool {
        host.links.iter().any(|link| link.index == self.device && link.name != plan.device)
    }

    fn repair_device(&mut self, guard: &Guard<'_>, mtu: u32) -> Result<(), InstallError> {
        let Guard { plan, host, mark: _, bare: _ } = *guard;
        let wanted: Vec<_> =
            host.fitting(&plan.addresses, &plan.device).iter().map(|net| (net.addr(), net.prefix_len())).collect();
        let own = host.own_addresses();
        let is_whole = host.links.iter().any(|link| link.name == plan.device && link.up && link.mtu == mtu);
        let index = if is_whole && wanted.iter().all(|(address, _)| own.contains(address)) {
            setup::index_of(&mut self.socket, &plan.device)?
        } else {
            setup::configure_tun(&mut self.socket, &plan.device, &wanted, mtu)?
        };
        let has = |net: &&IpNet| host.addresses.contains(&(index, **net));
        for net in plan.addresses.iter().filter(has).filter(|net| !wanted.contains(&(net.addr(), net.prefix_len()))) {
            setup::remove_address(&mut self.socket, &plan.device, index, net.addr(), net.prefix_len())?;
        }
        Ok(steer::fill_table(&mut self.socket, plan, host, index)?)
    }

    /// Brings our rules before those of others, or back to where the plan wants them. The new ones are there before the old go.
    fn repair_place(&mut self, plan: &mut Plan, host: &Host, mark: Mark) -> Result<(), InstallError> {
        foremost::put_back(&mut self.socket)?;
        let place = foremost::place(&mut self.socket, self.wanted)?;
        if place == plan.priority {
            return Ok(());
        }
        let moved = Plan { priority: place, ..plan.clone() };
        let rules = steer::rules(&moved, host, mark);
        let old: Vec<_> = self.undo.rules.iter().filter(|rule| !rules.contains(rule)).cloned().collect();
        self.undo.rules = [old.as_slice(), rules.as_slice()].concat();
        self.note()?;
        steer::add_rules(&mut self.socket, &rules)?;
        for rule in &old {
            rule.remove(&mut self.socket)?;
        }
        *plan = moved;
        self.undo.rules = rules;
        self.note()?;
        tracing::info!(priority = place, "our rules have moved, so that they stay before those of others");
        Ok(())
    }

    fn repair_guard(&mut self, guard: &Guard<'_>) -> Result<bool, InstallError> {
        let links: Vec<&Link> = guard.guarded_links().collect();
        // The packet loops know a number before the guard writes it.
        guard.bare.follow(links.iter().copied());
        // The kernel lets go of a chain whose link has another name by now.
        let has_chain = |Link { index, name, .. }: &&Link| {
            self.listed.contains(&format!("chain egress_{index} {{\n\t\ttype filter hook egress device \"{name}\" "))
        };
        let as_many = self.listed.matches("chain egress_").count() == links.len();
        // A table that is gone cannot be listed, which is a difference like any other.
        let is_whole = nft::list(&GUARD).is_ok_and(|now| now == self.listed);
        if is_whole && as_many && self.numbered == guard.bare.all() && links.iter().all(has_chain) {
            return Ok(false);
        }
        check_names(guard)?;
        self.load_guard(guard)?;
        Ok(true)
    }
}
