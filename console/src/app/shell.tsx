/** The frame of every page: where one is, where one can go, and whether what one sees is live. */
import { ActionIcon, AppShell, Box, Burger, Group, NavLink, Text, Tooltip, useComputedColorScheme, useMantineColorScheme } from '@mantine/core'
import { useDisclosure, useHotkeys } from '@mantine/hooks'
import { notifications } from '@mantine/notifications'
import { spotlight } from '@mantine/spotlight'
import { useMutation } from '@tanstack/react-query'
import { Link, Outlet, useParams, useRouterState } from '@tanstack/react-router'
import { Suspense, useEffect, useSyncExternalStore, type ReactNode } from 'react'

import { Failure } from '../api/client'
import { signOut } from '../api/queries'
import { missedUpdates, retryLive, useLiveState } from '../live/browser'
import { Empty, useNow } from '../parts/common'
import { later } from '../parts/later'
import { span } from '../pure/time'
import { DeviceIcon, DevicesIcon, LeaveIcon, Mark, MoonIcon, OverviewIcon, SearchIcon, SunIcon } from './icons'
import { recent, rememberDevice, watchRecent } from './recent'
import { useDoor } from './sign-in'

/** Fetched after the first view; asked for before, it opens when it is there. */
const Palette = later(() => import('./palette'))
/** Signing out is tried so often again while the hub does not answer, so far apart in milliseconds. */
const LEAVE_RETRIES = 2
const LEAVE_PAUSE_MS = 700

export function Shell(): ReactNode {
  const [opened, { toggle, close }] = useDisclosure()
  const path = useRouterState({ select: (state) => state.location.pathname })
  const { device } = useParams({ strict: false })
  const { session } = useDoor()
  const devices = useSyncExternalStore(watchRecent, recent)
  useEffect(close, [path, close])
  useEffect(() => {
    if (device !== undefined) rememberDevice(device)
    document.title = device === undefined ? 'Selvedge' : `${device} · Selvedge`
  }, [device])
  useHotkeys([['mod+K', spotlight.open], ['/', spotlight.open]])
  return (
    <AppShell header={{ height: 54 }} navbar={{ width: 232, breakpoint: 'sm', collapsed: { mobile: !opened } }} padding="md">
      <a className="skip" href="#main">
        Skip to content
      </a>
      <div className="edge" />
      <AppShell.Header className="header">
        <Group h="100%" wrap="nowrap" gap={0}>
          <Group flex={1} pl="lg" pr="md" wrap="nowrap" justify="space-between" gap="sm">
            <Group gap="sm" wrap="nowrap">
              <Burger opened={opened} onClick={toggle} hiddenFrom="sm" size="sm" color="#f4f1e8" aria-label="Open navigation" aria-expanded={opened} />
              <Link to="/" className="word" aria-label="Selvedge, to the overview">
                <Mark />
                <Box visibleFrom="xs" component="span">
                  Selvedge
                </Box>
              </Link>
            </Group>
            <button type="button" className="search" onClick={spotlight.open}>
              <SearchIcon size={16} />
              <span>Go to…</span>
              <kbd aria-hidden="true">Ctrl K</kbd>
            </button>
            <Group gap={4} wrap="nowrap">
              <LiveSign />
              <Theme />
              <Leave />
            </Group>
          </Group>
        </Group>
      </AppShell.Header>
      <AppShell.Navbar className="nav" p="sm" aria-label="Pages">
        <AppShell.Section grow>
          <NavLink component={Link} to="/" activeOptions={{ exact: true }} label="Overview" leftSection={<OverviewIcon />} active={path === '/'} />
          <NavLink component={Link} to="/devices" activeOptions={{ exact: true, includeSearch: false }} label="Devices" leftSection={<DevicesIcon />} active={path === '/devices'} />
          {devices.length > 0 && (
            <Text size="xs" c="dimmed" mt="md" mb={4} px="sm" fw={600}>
              Recently opened
            </Text>
          )}
          {devices.map((id) => (
            <NavLink key={id} component={Link} to={`/devices/${encodeURIComponent(id)}`} label={id} leftSection={<DeviceIcon />} active={device === id} />
          ))}
        </AppShell.Section>
        <Text size="xs" c="dimmed" px="sm">
          {session.hub.hostName} · {session.hub.version}
          <br />
          signed in as {session.policy}
        </Text>
      </AppShell.Navbar>
      <AppShell.Main id="main" tabIndex={-1}>
        <Box maw={1440} mx="auto">
          <Outlet />
        </Box>
      </AppShell.Main>
      <Suspense fallback={null}>
        <Palette device={device} />
      </Suspense>
    </AppShell>
  )
}

/** Live, or not and since when; a click connects at once. */
function LiveSign(): ReactNode {
  const state = useLiveState()
  const now = useNow()
  const { leave } = useDoor()
  useEffect(() => {
    if (state.kind === 'signedOut') leave(state.reason === 'signedOut' ? 'You are signed out.' : 'The session is over.')
    // `leave` is new with every turn.
  }, [state])
  const missed = missedUpdates()
  if (state.kind === 'waiting') {
    return (
      <Tooltip label={`${state.reason}; what you see is the last that was heard. Click to try now.`}>
        <button type="button" onClick={retryLive} className="search" style={{ minWidth: 0 }} data-live="waiting">
          ▲ offline, again in {span(state.until - now)}
        </button>
      </Tooltip>
    )
  }
  const words = state.kind === 'live' ? 'live' : state.kind === 'connecting' ? 'connecting' : 'idle'
  return (
    <Tooltip label={missed > 0 ? `${missed} updates were lost while this browser was cut off` : 'One stream brings all news'}>
      <Text component="span" size="sm" c="#f4f1e8" data-live={state.kind} px={4} visibleFrom="xs">
        {state.kind === 'live' ? '● ' : '○ '}
        {words}
      </Text>
    </Tooltip>
  )
}

function Theme(): ReactNode {
  const { setColorScheme } = useMantineColorScheme()
  const dark = useComputedColorScheme('light') === 'dark'
  return (
    <ActionIcon variant="transparent" c="#f4f1e8" size="lg" onClick={() => setColorScheme(dark ? 'light' : 'dark')} aria-label={dark ? 'Use the light theme' : 'Use the dark theme'}>
      {dark ? <SunIcon /> : <MoonIcon />}
    </ActionIcon>
  )
}

function Leave(): ReactNode {
  const { leave } = useDoor()
  const out = useMutation({
    mutationFn: signOut,
    // Who is told to be signed out must be: the session ends at the hub, or goes on here.
    retry: (count, error) => count < LEAVE_RETRIES && error instanceof Failure && error.status === 0,
    retryDelay: LEAVE_PAUSE_MS,
    onSuccess: () => leave('You are signed out.'),
    onError: (error) => {
      if (error instanceof Failure && error.status === 401) leave('You are signed out.')
      else notifications.show({ title: 'You are still signed in', message: error instanceof Failure ? `${error.message}. ${error.advice}` : String(error), color: 'red' })
    },
  })
  return (
    <Tooltip label="Sign out">
      <ActionIcon variant="transparent" c="#f4f1e8" size="lg" onClick={() => out.mutate()} loading={out.isPending} aria-label="Sign out">
        <LeaveIcon />
      </ActionIcon>
    </Tooltip>
  )
}

export function Lost(): ReactNode {
  return (
    <Empty title="There is no such page">
      The address may be mistyped or come from another version. <Link to="/">Go to the overview</Link>
    </Empty>
  )
}
