/** How the fleet is. */
import { Anchor, Card, Group, SimpleGrid, Skeleton, Stack, Table, Text, Title } from '@mantine/core'
import { useQuery, useQueryClient } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'
import { useEffect, type ReactNode } from 'react'

import { overviewKey, overviewQuery } from '../api/queries'
import type { Change, Overview as View } from '../api/types'
import { useLive } from '../live/browser'
import { Ago, AsOf, Empty, PageHead, Problem } from '../parts/common'
import { Spark } from '../parts/spark'
import { State, type Tone } from '../parts/state'
import { count, rate, span } from '../pure/time'

export function Overview(): ReactNode {
  const queries = useQueryClient()
  const { data, error, refetch } = useQuery(overviewQuery)
  const usable = data !== undefined
  useEffect(() => {
    // For whoever measures: the numbers are in the page, and a frame with them was drawn.
    if (usable) requestAnimationFrame(() => requestAnimationFrame(() => performance.mark('selvedge-usable')))
  }, [usable])
  useLive('overview', ({ data: news }) => queries.setQueryData(overviewKey, news as unknown as View))
  return (
    <>
      <PageHead title="Overview">{data && <AsOf time={data.asOf} />}</PageHead>
      {error && !data && <Problem error={error} what="The overview cannot be read" retry={() => void refetch()} />}
      {!data && !error && <Skeleton height={320} />}
      {data && data.devices.total === 0 && data.complete && <FirstSteps />}
      {data && (data.devices.total > 0 || !data.complete) && <Fleet view={data} />}
    </>
  )
}

function FirstSteps(): ReactNode {
  return (
    <Empty
      title="No devices yet"
      commands={['selvedge up', 'selvedge device create sensor-1', 'selvedge device connection-string sensor-1 --show-secrets']}
    >
      The first command makes this machine an edge device with a pipeline on its own readings. The others register a device and print what to give it; any Azure IoT device SDK takes it.
    </Empty>
  )
}

function Fleet({ view }: { view: View }): ReactNode {
  const { devices, modules, ingest } = view
  const series = ingest.series.map((point) => point.messages / ingest.stepSeconds)
  const minutes = (ingest.series.length * ingest.stepSeconds) / 60
  return (
    <Stack gap="md">
      {!view.complete && <Text c="dimmed">Still counting: {count(view.scanned)} devices so far.</Text>}
      <SimpleGrid cols={{ base: 2, sm: 3, lg: 5 }} spacing="md">
        <Tile to="/devices" label="devices" value={count(devices.total)} note={`${count(devices.edge)} run the edge runtime`} />
        <Tile to="/devices" search={{ connection: 'connected' }} label="connected" value={count(devices.connected)} note={`of ${count(devices.enabled)} enabled`} />
        <Tile to="/devices" search={{ connection: 'stale' }} label="stale" value={count(devices.stale)} tone={devices.stale > 0 ? 'warn' : 'ok'} note={`unseen for more than ${span(devices.staleAfterSeconds * 1000)}`} />
        <Tile label="modules failing" value={count(modules.failing)} tone={modules.failing > 0 ? 'bad' : 'ok'} note={`${count(modules.running)} of ${count(modules.reported)} running`} />
        <Tile label="messages a second" value={rate(ingest.messagesPerSecond)} note={`${count(ingest.messagesTotal)} since the hub started`} />
      </SimpleGrid>
      <Card>
        <Title order={2} mb="xs">
          Messages taken
        </Title>
        <Spark values={series} label={`Messages a second over the last ${span(minutes * 60_000)}; now ${rate(ingest.messagesPerSecond)}`} />
        <Group justify="space-between">
          <Text size="xs" c="dimmed">
            {span(minutes * 60_000)} ago
          </Text>
          <Text size="xs" c="dimmed">
            most {rate(Math.max(0, ...series))} a second
          </Text>
          <Text size="xs" c="dimmed">
            now
          </Text>
        </Group>
      </Card>
      <SimpleGrid cols={{ base: 1, lg: 2 }} spacing="md" style={{ alignItems: 'start' }}>
        <Failing view={view} />
        <Recent changes={view.recent} />
      </SimpleGrid>
    </Stack>
  )
}

function Tile({ label, value, note, tone, to, search }: { label: string; value: string; note: string; tone?: Tone; to?: '/devices'; search?: { connection: string } }): ReactNode {
  const inner = (
    <>
      <Text size="sm" c="dimmed">
        {label}
      </Text>
      <b>{value}</b>
      <Text size="xs" c="dimmed">
        {note}
      </Text>
    </>
  )
  if (to === undefined) {
    return (
      <Card className="tile" data-tone={tone}>
        {inner}
      </Card>
    )
  }
  return (
    <Card component={Link} to={to} {...(search ? { search: search as never } : {})} className="tile" data-tone={tone}>
      {inner}
    </Card>
  )
}

function Failing({ view }: { view: View }): ReactNode {
  return (
    <Card>
      <Title order={2} mb="sm">
        Modules failing
      </Title>
      {view.modules.top.length === 0 && <State tone="ok">Every module that reported does what it should.</State>}
      <Stack gap="xs">
        {view.modules.top.map((module) => (
          <Group key={`${module.deviceId}/${module.moduleId}`} justify="space-between" gap="xs">
            <div>
              <Anchor component={Link} to={`/devices/${encodeURIComponent(module.deviceId)}`}>
                {module.deviceId}
              </Anchor>{' '}
              / {module.moduleId}
              {module.description && (
                <Text size="xs" c="dimmed">
                  {module.description}
                </Text>
              )}
            </div>
            <State tone="bad">
              {module.runtimeStatus}
              {module.exitCode !== null && module.exitCode !== 0 && `, exit code ${module.exitCode}`}
            </State>
          </Group>
        ))}
      </Stack>
    </Card>
  )
}

const KINDS: Record<string, string> = {
  identityCreated: 'registered',
  identityUpdated: 'identity changed',
  identityDeleted: 'removed',
  tagsUpdated: 'tags changed',
  desiredUpdated: 'desired properties changed',
  reportedUpdated: 'reported properties changed',
  modelUpdated: 'another model announced',
  methodInvoked: 'a direct method was called',
}

function Recent({ changes }: { changes: Change[] }): ReactNode {
  return (
    <Card>
      <Title order={2} mb="sm">
        Recent events
      </Title>
      {changes.length === 0 && <Text c="dimmed">Nothing has changed yet. Registrations, twin changes and deployments appear here.</Text>}
      {changes.length > 0 && (
        <Table.ScrollContainer minWidth={380} scrollAreaProps={{ viewportProps: { tabIndex: 0, 'aria-label': 'Recent events' } }}>
          <Table>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>When</Table.Th>
                <Table.Th>What</Table.Th>
                <Table.Th>By</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {changes.map((change) => (
                <Table.Tr key={change.sequence}>
                  <Table.Td className="nowrap">
                    <Ago time={change.at} />
                  </Table.Td>
                  <Table.Td>
                    <Anchor component={Link} to={`/devices/${encodeURIComponent(change.deviceId)}`} size="sm">
                      {change.deviceId}
                    </Anchor>
                    {change.moduleId !== null && ` / ${change.moduleId}`}: {KINDS[change.kind] ?? change.kind}
                  </Table.Td>
                  <Table.Td className="nowrap">{change.cause}</Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
    </Card>
  )
}
